/*
 * sabotage.h - would the gradient check of a layer notice a broken backward?
 *
 * Each operation's backward in turn is replaced by one that spoils what it has just written, and the check is made
 * again. For every operation that the layer calls, the check must then fail.
 */
#ifndef PC_TESTS_SABOTAGE_H
#define PC_TESTS_SABOTAGE_H

#include "tests/support/gradcheck.h"

// gradcheck_passes, and then each operation broken. Prints what goes unnoticed.
bool sabotage_check(gradcheck *g, gradcheck_run *run, void *arg, double tolerance);

#endif
