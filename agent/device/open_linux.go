package device

import "golang.org/x/sys/unix"

// exclusive makes the opening of a block device fail while somebody else has claimed it: a mount, a swap area, a device above.
const exclusive = unix.O_EXCL
