"""Three nodes as processes, three hundred clients, a real engine, and what goes wrong with them."""
