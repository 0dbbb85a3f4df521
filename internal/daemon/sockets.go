package daemon

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"time"
)

// open makes a listener, or goes on with one that a former process has left.
func (p *platform) open(ctx context.Context, flag, addr string) (net.Listener, error) {
	if slices.Contains(p.c.lasting(), flag) {
		return p.sockets.Listen(ctx, flag, addr)
	}
	return (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
}

// lasting are the doors, by flag, at which clients wait while this process is away.
// Of several servers the API's is none of them: that it is refused tells the others
// that a leader has ended.
func (c *Config) lasting() []string {
	doors := []string{"listen", "tls-listen"}
	if c.Join == "" && !c.shared() {
		doors = append(doors, "api-listen")
	}
	return doors
}

// forGood tells whether the platform is to end with all that it runs.
func (p *platform) forGood() bool { return p.c.TearDown != nil && p.c.TearDown() }

// leave gives a connection of the gateway's that rests to the next process.
func (p *platform) leave(c net.Conn) bool { return !p.forGood() && p.sockets.Leave(c) }

// endSockets lets go of the sockets; of a platform that ends for good nobody keeps
// any.
func (p *platform) endSockets(ctx context.Context) {
	err := error(nil)
	if p.forGood() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = p.sockets.Forget(ctx)
	}
	if last := p.sockets.Close(); err == nil {
		err = last
	}
	if err != nil {
		p.log.Warn("the listening sockets", slog.Any("error", err))
	}
}
