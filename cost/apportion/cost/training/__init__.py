"""What training costs: attempts, lost work, goodput, and how often to save."""
