/* Writes where it may not. */
int main(void)
{
    *(volatile int *)8 = 0;
    return 0;
}
