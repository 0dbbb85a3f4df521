package main

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// litter leaves in the pod's namespaces what it can: shared memory, queues,
// semaphores, names, sockets, addresses. to is an address that echoes.
func litter(to string) {
	say("litter.netns", cookie())
	_, _, e1 := unix.Syscall(unix.SYS_SHMGET, 0x1234, 4096, 0o1666)
	say("litter.shm", name(e1))
	_, _, e2 := unix.Syscall(unix.SYS_MSGGET, 0x1234, 0o1666, 0)
	say("litter.msg", name(e2))
	_, _, e3 := unix.Syscall(unix.SYS_SEMGET, 0x1234, 1, 0o1666)
	say("litter.sem", name(e3))
	queue, err := unix.Open("/dev/mqueue/litter", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
	say("litter.mqueue", why(err))
	unix.Close(queue)
	say("litter.file", why(os.WriteFile("/dev/shm/litter", []byte("x"), 0o666)))
	say("litter.hostname", why(unix.Sethostname([]byte("litter"))))
	say("litter.domainname", why(unix.Setdomainname([]byte("litter"))))
	for _, c := range [][2]string{{"net/ipv4/tcp_syncookies", "0"}, {"net/ipv4/ip_unprivileged_port_start", "77"}, {"net/ipv4/conf/eth0/rp_filter", "0"}, {"net/ipv4/ip_forward", "1"}, {"kernel/shmmni", "77"}, {"net/ipv4/conf/all/accept_redirects", "0"}} {
		say("litter.sysctl."+c[0], why(os.WriteFile("/proc/sys/"+c[0], []byte(c[1]), 0o644)))
	}
	say("litter.listen", why(stay(net.Listen("tcp", "0.0.0.0:8099"))))
	say("litter.abstract", why(stay(net.Listen("unix", "@podsnap-probe"))))
	say("litter.connections", why(connections(to)))
	if n, err := tcpMetrics(); n > 0 {
		say("litter.metrics", "ok")
	} else {
		say("litter.metrics", why(err)+": none")
	}
	say("litter.address", why(addAddress("lo", [4]byte{10, 99, 99, 99})))
	say("litter.address2", why(addAddress("eth0", [4]byte{10, 99, 99, 98})))
	fmt.Fprintln(out, end)
	out.Flush()
}

var kept []any // open until the end

func stay(l net.Listener, err error) error {
	kept = append(kept, l)
	return err
}

// connections leaves some that were closed (the kernel remembers how they
// went) and some that are open.
func connections(to string) error {
	for n := range 8 {
		c, err := net.Dial("tcp", to)
		if err != nil {
			return err
		}
		if n%2 == 0 {
			kept = append(kept, c)
			continue
		}
		if _, err := c.Write(make([]byte, 1<<15)); err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		buf := make([]byte, 1<<15)
		for {
			if _, err := c.Read(buf); err != nil {
				break
			}
		}
		c.Close()
	}
	return nil
}

// addAddress gives a link a second address, by an alias as of old.
func addAddress(link string, ip [4]byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(link + ":9")
	if err != nil {
		return err
	}
	if err := r.SetInet4Addr(ip[:]); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, r)
}
