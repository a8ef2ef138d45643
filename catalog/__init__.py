"""What can be called and what it costs: providers and their keys, models, routes and dated prices, and the live snapshot of them."""
