"""How bytes get in and out: the pump, UDP and TCP, names, interfaces, ports."""
