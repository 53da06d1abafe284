# Waits for a better day: uses no processor time at all.
exec sleep 3600
