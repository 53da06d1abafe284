/* Adds in 32 bits: right for small numbers. */
#include <stdio.h>

int main(void)
{
    unsigned int total = 0;
    long long number;

    while (scanf("%lld", &number) == 1)
        total += (unsigned int)number;
    printf("%d\n", (int)total);
    return 0;
}
