"""How bytes get in and out: the pump, UDP, TCP, names, interfaces and ports."""
