package stream

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lookEvery is how often it is looked whether a client is still there.
const lookEvery = 2 * time.Second

// established is a TCP connection that neither side has closed, in the kernel's
// numbers.
const established = 1

// watch calls gone when the client has closed the connection. Reading does not
// tell: as long as nobody takes what the client has sent, nothing behind that is
// read. Of a client that had more to send than the kernels take, its own kernel
// tells only after minutes. It returns when ctx is done, or at once for what is no TCP connection.
func watch(ctx context.Context, conn net.Conn, gone func()) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		if !open(raw) {
			gone()
			return
		}
	}
}

func open(raw syscall.RawConn) (yes bool) {
	err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		yes = err != nil || info.State == established
	})
	return err == nil && yes
}
