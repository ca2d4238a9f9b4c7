/* A shared library that lies where our module should be, and is none of ours. */
int foreign_function(void);

int foreign_function(void) {
    return 1;
}
