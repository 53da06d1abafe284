# Answers without end.
exec yes "the answer is"
