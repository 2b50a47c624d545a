"""Networks: the unified model and its replaceable parts."""
