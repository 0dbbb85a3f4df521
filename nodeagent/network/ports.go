package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Ports asks which ports a network namespace's processes listen on. It keeps a
// socket of the namespace open, so that asking costs a few microseconds and no
// packet. It is for one goroutine at a time.
type Ports struct{ fd int }

// NewPorts opens it.
func NewPorts(ns *os.File) (*Ports, error) {
	p := &Ports{}
	err := Inside(ns, func() (err error) {
		p.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	return p, nil
}

// Listening tells whether a TCP connection to the port would be taken, over
// IPv4.
func (p *Ports) Listening(port uint16) (bool, error) {
	id := make([]byte, diagID)
	binary.BigEndian.PutUint16(id, port)
	for i := 40; i < diagID; i++ {
		id[i] = 0xff // no cookie
	}
	ids, err := diag(p.fd, sockDiagByFamily, 0, unix.AF_INET, id)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return len(ids) > 0, err
}

// Close closes it.
func (p *Ports) Close() { _ = unix.Close(p.fd) }
