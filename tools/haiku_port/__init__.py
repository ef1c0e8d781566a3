"""What tools/port_haiku.py is made of."""
