"""What the folder of a session gets for the tools of the field: IBL's description, tables for NWB, and provenance."""
