package async

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// errDenied is a callback whose address may not be called.
var errDenied = errors.New("callbacks to this address are refused")

// deniedByDefault are networks in which no receiver of callbacks is, but
// services that trust whoever reaches them: the metadata of clouds and the
// neighbours on the link, "this host", multicast.
func deniedByDefault() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"),
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("::/128"),
		netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8"),
	}
}

// callbackClient follows no redirects, uses no proxy and judges each address
// after its name was resolved, so that a name can't lead where an address may
// not.
func callbackClient(deny []netip.Prefix) *http.Client {
	d := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error { return refuse(deny, address) }}
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSHandshakeTimeout: 5 * time.Second, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// refuse judges address, which is host:port with an IP address.
func refuse(deny []netip.Prefix, address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s", errDenied, address)
	}
	ip := ap.Addr().Unmap().WithZone("")
	for _, p := range deny {
		if p.Contains(ip) {
			return fmt.Errorf("%w: %s is in %s", errDenied, ip, p)
		}
	}
	return nil
}
