"""Text → documents → vocabulary → rows of token ids → batches."""
