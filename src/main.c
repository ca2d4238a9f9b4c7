/* The program's entry: finds the command and hands over. */
#include <stdio.h>

int main(void) {
    puts("rekindle " REKINDLE_VERSION);
    return 0;
}
