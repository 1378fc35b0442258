"""THE way a text becomes a reward, and the evaluation of whole sets."""
