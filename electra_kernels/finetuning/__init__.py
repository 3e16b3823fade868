"""Fine-tuning of any encoder of transformers on labels per word or per text, and labelling with the result.

Labelled files → windows of word pieces → transformers' ``Trainer`` → a transformers folder, scores, predictions.
"""
