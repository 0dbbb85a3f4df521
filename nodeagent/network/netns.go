package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// connections is the size of a namespace's own table of TCP connections, where
// the kernel (6.1) can have them own one. In the machine's table, which has
// hundreds of thousands of places, looking for one namespace's connections
// takes milliseconds.
const connections = "8192"

// noMetrics keeps the kernel from remembering how a namespace's connections were,
// for the next ones with the same host: see forgetConnections.
const noMetrics = "tcp_no_metrics_save"

// nursery is a namespace that others are made in: what they begin with follows
// from where they are made. Without one they are as the kernel makes them.
type nursery struct {
	ns     *os.File
	limits map[string][]byte // that follow from the table's size and are to be as they are otherwise
}

var theNursery = sync.OnceValue(func() *nursery {
	n := &nursery{limits: map[string][]byte{}}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		for _, key := range []string{"tcp_max_tw_buckets", "tcp_max_syn_backlog"} {
			b, err := os.ReadFile("/proc/sys/net/ipv4/" + key)
			if err != nil {
				return err
			}
			n.limits[key] = b
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/tcp_child_ehash_entries", []byte(connections), 0o644); err != nil {
			return err
		}
		var err error
		n.ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil
	}
	return n
})

// make has the thread in a new namespace.
func (n *nursery) make() error {
	if n != nil {
		if err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/"+noMetrics, []byte("1"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if n == nil {
		return nil
	}
	for key, value := range n.limits {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+key, value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// NewNamespace makes a network namespace and answers with a file that holds
// it. The namespace lives as long as the file is open or a process is in it:
// nothing is left behind by a crash.
func NewNamespace() (ns *os.File, err error) {
	from := theNursery()
	err = onThread(func() error {
		if err := from.make(); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// Inside runs f on a thread that is in the namespace. What f opens stays in it;
// goroutines that f starts are not.
func Inside(ns *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// Alone makes a namespace ready that is to have no network but its loopback.
func Alone(ns *os.File) error {
	return Inside(ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return loUp(h)
	})
}

func loUp(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// onThread runs f on a thread of its own and brings the thread back into the
// network namespace it had. A thread that cannot be brought back stays locked
// and ends with its goroutine. That is not the usual way out, because a
// thread's end is also taken for the end of the parent by children that were
// started on it with a parent-death signal.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}
