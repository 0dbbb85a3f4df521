package route

import (
	"errors"
	"net/url"
	"strings"

	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/types"
)

// Why a path is refused.
var (
	// ErrNoName: the path holds no function's name.
	ErrNoName = errors.New("the path names no function")
	// ErrBadName: what stands where the name belongs can't be one.
	ErrBadName = errors.New("a function's name has only letters, digits, '-', '_' and '.', without percent escapes")
	// ErrBadPath: the path could mean something else to the next reader.
	ErrBadPath = errors.New("the path has a '.' or '..' segment, an empty first segment or a NUL byte")
)

// Target is what a path asks for.
type Target struct {
	Function types.NamespacedName
	Path     string // below the function, decoded; starts with a slash
	RawPath  string // as it was escaped; "" if that is the default escaping of Path
}

// CheckPath refuses paths that one reader may take for another one's: nothing
// is cleaned and passed on.
func CheckPath(u *url.URL) error {
	p := u.Path
	if strings.HasPrefix(p, "//") || strings.IndexByte(p, 0) >= 0 {
		return ErrBadPath
	}
	for rest := p; ; {
		i := strings.Index(rest, "/.")
		if i < 0 {
			return nil
		}
		rest = rest[i+1:]
		seg, _, _ := strings.Cut(rest, "/")
		if seg == "." || seg == ".." {
			return ErrBadPath
		}
	}
}

// Parse reads `<prefix><name>[.<namespace>][/path]`; prefix ends with a slash.
func Parse(u *url.URL, prefix string) (Target, error) {
	if err := CheckPath(u); err != nil {
		return Target{}, err
	}
	rest, ok := strings.CutPrefix(u.Path, prefix)
	if !ok || rest == "" {
		return Target{}, ErrNoName
	}
	name, path := rest, "/"
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		name, path = rest[:i], rest[i:]
	}
	for i := range len(name) {
		if !nameByte(name[i]) {
			return Target{}, ErrBadName
		}
	}
	t := Target{Path: path}
	if u.RawPath != "" {
		// The name has no escapes, so both forms start alike, or it is refused.
		if !strings.HasPrefix(u.RawPath, prefix+name) {
			return Target{}, ErrBadName
		}
		t.RawPath = u.RawPath[len(prefix)+len(name):]
		if t.RawPath == "" {
			t.RawPath = "/"
		} else if t.RawPath[0] != '/' {
			return Target{}, ErrBadName
		}
	}
	t.Function.Namespace, t.Function.Name = api.FunctionNamespace, name
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		t.Function.Name, t.Function.Namespace = name[:i], name[i+1:]
	}
	if t.Function.Name == "" || t.Function.Namespace == "" {
		return Target{}, ErrNoName
	}
	return t, nil
}

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
}
