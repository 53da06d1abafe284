# Adds the numbers of its input.
total=0
for number in $(cat); do
    total=$((total + number))
done
echo "$total"
