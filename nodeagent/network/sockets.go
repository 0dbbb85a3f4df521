package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What the kernel's sock_diag interface calls things; a socket's id is 48 bytes
// and used as it comes.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	diagRequest      = 56 // bytes of struct inet_diag_req_v2
	diagID           = 48 // bytes of struct inet_diag_sockid
)

// destroySockets ends what the kernel keeps of TCP connections whose processes
// are gone: closing and waiting ones. It runs inside the namespace. Finding them
// goes through the whole table, so it is asked first whether there are any.
func destroySockets() error {
	if n, err := countSockets(); err == nil && n == 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return fmt.Errorf("open sock_diag: %w", err)
	}
	defer unix.Close(fd)
	for try := 0; ; try++ {
		left := 0
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			ids, err := listSockets(fd, family)
			if err != nil {
				return fmt.Errorf("list sockets: %w", err)
			}
			left += len(ids)
			for _, id := range ids {
				_, err := diag(fd, sockDestroy, unix.NLM_F_ACK, family, id)
				if err != nil && !errors.Is(err, unix.ENOENT) { // ended meanwhile
					return fmt.Errorf("%w: destroy a socket: %w", ErrUsed, err)
				}
			}
		}
		if n, err := countSockets(); left == 0 || err == nil && n == 0 {
			return nil
		}
		if try == 2 {
			return fmt.Errorf("%w: %d sockets stay", ErrUsed, left)
		}
	}
}

// countSockets is how many TCP sockets the namespace of the thread has, waiting
// ones included.
func countSockets() (n int, err error) {
	for file, names := range map[string][]string{"sockstat": {"TCP: inuse ", " tw "}, "sockstat6": {"TCP6: inuse "}} {
		b, err := os.ReadFile("/proc/thread-self/net/" + file)
		if errors.Is(err, os.ErrNotExist) && file == "sockstat6" {
			continue // a kernel without
		}
		if err != nil {
			return 0, err
		}
		for _, name := range names {
			_, rest, ok := strings.Cut(string(b), name)
			if !ok {
				return 0, fmt.Errorf("%s does not tell %q", file, name)
			}
			word, _, _ := strings.Cut(rest, "\n")
			word, _, _ = strings.Cut(word, " ")
			k, err := strconv.Atoi(word)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", file, err)
			}
			n += k
		}
	}
	return n, nil
}

// listSockets answers with the ids of all TCP sockets, in whatever state.
func listSockets(fd int, family uint8) (ids [][]byte, err error) {
	ids, err = diag(fd, sockDiagByFamily, unix.NLM_F_DUMP, family, nil)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel without that family
	}
	return ids, err
}

// diag sends one request and reads its answer to the end.
func diag(fd int, kind, flags uint16, family uint8, id []byte) (ids [][]byte, err error) {
	const header = unix.NLMSG_HDRLEN
	q := make([]byte, header+diagRequest)
	binary.NativeEndian.PutUint32(q, uint32(len(q)))
	binary.NativeEndian.PutUint16(q[4:], kind)
	binary.NativeEndian.PutUint16(q[6:], unix.NLM_F_REQUEST|flags)
	q[header], q[header+1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(q[header+4:], ^uint32(0)) // states: all
	copy(q[header+8:], id)
	if err := unix.Sendto(fd, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	buf := make([]byte, 16<<10)
	if flags&unix.NLM_F_DUMP == 0 {
		buf = buf[:1<<10]
	}
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for b := buf[:n]; len(b) >= header; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < header || size > len(b) {
				return nil, errors.New("a message that is cut off")
			}
			body := b[header:size]
			switch kind := binary.NativeEndian.Uint16(b[4:]); {
			case kind == unix.NLMSG_DONE:
				return ids, nil
			case kind == unix.NLMSG_ERROR && len(body) >= 4:
				if e := int32(binary.NativeEndian.Uint32(body)); e != 0 {
					return nil, unix.Errno(-e)
				}
				return ids, nil
			case kind == sockDiagByFamily && len(body) >= 4+diagID:
				ids = append(ids, append([]byte(nil), body[4:4+diagID]...))
				if flags&unix.NLM_F_DUMP == 0 {
					return ids, nil // the one that was asked for
				}
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
}
