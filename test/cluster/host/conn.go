package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// message goes between a host's first process and whoever has started it. What
// is not used of it is empty.
type message struct {
	Op string `json:"op"`
	ID int    `json:"id,omitempty"` // of a process: who asks for it chooses

	Path string   `json:"path,omitempty"`
	Args []string `json:"args,omitempty"` // with the program's name
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`

	Signal int    `json:"signal,omitempty"`
	Pid    int    `json:"pid,omitempty"`    // in the host
	Status uint32 `json:"status,omitempty"` // as wait4 gives it
	Error  string `json:"error,omitempty"`
}

const (
	opReady   = "ready"   // of the host, with its end of the cable
	opStart   = "start"   // a process, with its standard files
	opStarted = "started" // or not
	opExited  = "exited"
	opSignal  = "signal" // to a process
)

// conn carries messages and descriptors.
type conn struct{ *net.UnixConn }

// newConn makes a pair: an end for this process and one to pass on.
func newConn() (*conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "host")
	c, err := connOf(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c, theirs, nil
}

// connOf takes a file over.
func connOf(f *os.File) (*conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("%T is no unix socket", c)
	}
	return &conn{u}, nil
}

// send passes the descriptors on; they stay the caller's.
func (c *conn) send(m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

// receive waits for a message. The descriptors are the caller's.
func (c *conn) receive() (message, []int, error) {
	b, oob := make([]byte, 128<<10), make([]byte, unix.CmsgSpace(4*4))
	n, on, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return message{}, nil, err
	}
	if n == 0 {
		return message{}, nil, io.EOF
	}
	var fds []int
	all, err := unix.ParseSocketControlMessage(oob[:on])
	for _, m := range all {
		got, fault := unix.ParseUnixRights(&m)
		fds, err = append(fds, got...), errors.Join(err, fault)
	}
	var m message
	if err := errors.Join(err, json.Unmarshal(b[:n], &m)); err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return message{}, nil, err
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return m, fds, nil
}
