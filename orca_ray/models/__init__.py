"""Networks: pretrained bodies by name, embedders and heads around them, and networks
without pretraining.
"""
