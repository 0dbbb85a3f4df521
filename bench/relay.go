package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
)

// relayVerb makes this program the barest hop that Go allows, in a process of
// its own as the gateway is: what comes in goes on, what comes back goes back,
// unread. No gateway can add less to a call.
const relayVerb = "relay"

// relay serves until its standard input ends.
func relay(to string) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go pass(c, to)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin) // until its end, whatever that is
	return l.Close()
}

// pass carries requests and answers that come in one piece each, one after the
// other.
func pass(c net.Conn, to string) {
	defer c.Close()
	u, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", to)
	if err != nil {
		return
	}
	defer u.Close()
	buf := make([]byte, 16<<10)
	for {
		for _, way := range [2][2]net.Conn{{c, u}, {u, c}} {
			n, err := way[0].Read(buf)
			if err != nil {
				return
			}
			if _, err := way[1].Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

// relayTo starts a relay to addr and answers with its host:port.
func (b *bench) relayTo(addr string) (at string, stop func()) {
	self, err := os.Executable()
	b.must(err)
	cmd := exec.CommandContext(b.ctx, self, relayVerb, addr)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	b.must(err)
	out, err := cmd.StdoutPipe()
	b.must(err)
	b.must(cmd.Start())
	stop = func() {
		in.Close()
		_ = cmd.Wait() // it was told to end
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		b.Fatal(err)
	}
	return strings.TrimSpace(line), stop
}
