package hub

import (
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// OpenTAP makes a TAP device in this thread's network namespace, up and with an
// address. The device lives as long as the descriptor that is answered, which
// TAP makes a port of, in this process or in one that it is passed to. The
// kernel gives it whole packets of at most MTU bytes with their checksums: the
// device has no offloads unless asked for.
func OpenTAP(name string, hw net.HardwareAddr, addr *net.IPNet) (fd int, err error) {
	fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	made := fd
	defer func() {
		if err != nil {
			_ = unix.Close(made)
		}
	}()
	req, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return -1, fmt.Errorf("make the TAP device %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return -1, err
	}
	if err := netlink.LinkSetHardwareAddr(link, hw); err != nil {
		return -1, fmt.Errorf("set the address of %s: %w", name, err)
	}
	if err := netlink.LinkSetMTU(link, MTU); err != nil {
		return -1, err
	}
	// Only what a test sends is on the wire.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644); err != nil && !os.IsNotExist(err) {
		return -1, err
	}
	// Coming up it tells its address, so that who has asked for it in vain does not
	// wait until it asks again.
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/arp_notify", []byte("1"), 0o644); err != nil {
		return -1, err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: addr}); err != nil {
		return -1, fmt.Errorf("give %s its address: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return -1, err
	}
	return fd, nil
}

// TAP is the port of a device that OpenTAP has made.
func TAP(fd int) Port {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), "tap") // a file that does not block waits in the runtime's poller
}
