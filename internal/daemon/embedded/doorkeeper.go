package embedded

import (
	"crypto/subtle"
	"sync/atomic"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// doorkeeper lets NATS' clients in: the platform, and who changes the members, which
// is an affair of the system's account.
type doorkeeper struct {
	token, admin string
	server       atomic.Pointer[natsserver.Server] // whose doors these are
}

var _ natsserver.Authentication = (*doorkeeper)(nil)

// Check implements the server's interface.
func (d *doorkeeper) Check(c natsserver.ClientAuthentication) bool {
	said := c.GetOpts().Token
	switch {
	case same(said, d.token):
		return true
	case same(said, d.admin):
		system := d.server.Load().SystemAccount()
		if system == nil {
			return false
		}
		c.RegisterUser(&natsserver.User{Username: "admin", Account: system})
		return true
	}
	return false
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
