"""Pre-training of ELECTRA on real text: text, vocabulary, rows, training, evaluation, report."""
