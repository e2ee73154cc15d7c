"""What serving cost: single requests, and the others beside them."""
