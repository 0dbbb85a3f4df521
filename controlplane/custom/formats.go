package custom

import (
	"encoding/base64"
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

var (
	macForm  = regexp.MustCompile(`^([0-9A-Fa-f]{2}[:-]){5}([0-9A-Fa-f]{2})$`)
	uuidForm = regexp.MustCompile(`^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$`)
)

// formats are those of strings that are held to what they say, by name without
// hyphens. Others say what is meant and are not looked at.
var formats = map[string]func(string) bool{
	"datetime": func(s string) bool { _, err := time.Parse(time.RFC3339Nano, s); return err == nil },
	"date":     func(s string) bool { _, err := time.Parse(time.DateOnly, s); return err == nil },
	"duration": func(s string) bool { _, err := time.ParseDuration(s); return err == nil },
	"email":    func(s string) bool { _, err := mail.ParseAddress(s); return err == nil },
	"hostname": func(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 },
	"ipv4":     func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is4() },
	"ipv6":     func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is6() },
	"cidr":     func(s string) bool { _, err := netip.ParsePrefix(s); return err == nil },
	"mac":      macForm.MatchString,
	"uuid":     uuidForm.MatchString,
	"uri":      func(s string) bool { u, err := url.ParseRequestURI(s); return err == nil && u != nil },
	"byte":     func(s string) bool { _, err := base64.StdEncoding.DecodeString(s); return err == nil },
}
