"""How well a label predicts: one module for each kind of score."""
