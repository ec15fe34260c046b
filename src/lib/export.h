/*
 * What libuserkvm.so shows to the project's other programs (the preload library, userkvm-static), and to nobody else.
 *
 * Such a function's definition carries USERKVM_SHARED: the library's own calls of it go straight there (protected
 * visibility), whatever a client calls its functions; its name stands in the version USERKVM_PRIVATE
 * (src/preload/libuserkvm.map).
 */
#ifndef USERKVM_LIB_EXPORT_H
#define USERKVM_LIB_EXPORT_H

#define USERKVM_SHARED __attribute__((visibility("protected")))

#endif
