"""The pure planner: from what is seen of one service to ordered actions and a status. No clock, wire or event loop."""
