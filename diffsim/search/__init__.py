"""The methods of ``diffsim.optimize``: descent along gradients, populations without them, and what combines both."""
