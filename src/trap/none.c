/*
 * An empty library. A dynamic program that runs in the host of static ones (trap.h) keeps LD_PRELOAD in its
 * environment, for what it executes; its own loader gets this file for the library that stands there, since the host
 * has the library already.
 */
