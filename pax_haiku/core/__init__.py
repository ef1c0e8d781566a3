"""What makes layers run on Haiku; Pax code imports it from the facades above."""
