"""What the studies train: networks, the recipes behind them, and data sets.

Nothing is imported here, so that reading a recipe does not load torch.
"""
