package network

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// settle waits until the kernel has put the link into use. When the other end
// of a veth pair comes up, the kernel turns this end's queue on later, in a
// work queue; until then it drops what is sent, and the first connection to a
// new pod would lose its SYN and wait for a second. Asking ethtool for the
// link's state does that work at once, on every kernel.
func settle(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_GLINK}
	req := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return fmt.Errorf("settle link %s: %w", name, errno)
	}
	return nil
}
