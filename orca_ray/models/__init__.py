"""Networks: pretrained bodies, their embedders and heads, and untrained networks."""
