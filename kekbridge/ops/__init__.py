"""What the daemon does by the clock besides trading: it watches, backs up, tidies and sums up. Nothing here sends an order."""
