"""What is the same for every task: training, evaluation, prediction, weight files, run folders."""
