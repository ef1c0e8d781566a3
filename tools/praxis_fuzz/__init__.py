"""Random layer trees, built by pax_haiku and by the real Praxis, and compared."""
