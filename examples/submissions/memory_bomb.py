"""Takes memory until there is none left."""

hoard = []
while True:
    hoard.append(bytearray(1 << 20))
