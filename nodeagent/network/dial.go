package network

import (
	"context"
	"net"
	"os"
)

// Dial connects to a TCP address (of numbers) from inside of a namespace. The
// connection belongs to it.
func Dial(ctx context.Context, ns *os.File, address string) (conn net.Conn, err error) {
	err = Inside(ns, func() error {
		// With one address, and no name to look up, the socket is made on the
		// caller's thread.
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}
