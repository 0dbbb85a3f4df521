package spec

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ErrNoCommand is a container that has nothing to run.
var ErrNoCommand = errors.New("neither the container nor its image names a command; set command or args")

// arguments joins command and arguments by Kubernetes' rules: a command of the
// container replaces the image's entrypoint and default arguments, arguments
// of the container replace the image's.
func arguments(img runtime.ImageConfig, command, args []string) ([]string, error) {
	if len(command) == 0 {
		command = img.Entrypoint
		if len(args) == 0 {
			args = img.Cmd
		}
	}
	all := append(slices.Clone(command), args...)
	if len(all) == 0 || all[0] == "" {
		return nil, ErrNoCommand
	}
	return all, nil
}

// environment is the image's variables with the container's on top. The last
// value of a name wins and stands where the name first came. HOME is the user's
// if nobody says otherwise.
func environment(hostname, home string, image, container []string) []string {
	var names []string
	values := map[string]string{}
	for _, kv := range slices.Concat([]string{"PATH=" + defaultPath, "HOSTNAME=" + hostname}, image, container) {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			continue // an image may carry such; exec would pass it on as it is
		}
		if _, seen := values[name]; !seen {
			names = append(names, name)
		}
		values[name] = kv
	}
	if _, ok := values["HOME"]; !ok {
		names, values["HOME"] = append(names, "HOME"), "HOME="+home
	}
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = values[n]
	}
	return out
}

// Terminal is an environment of a process that may have a terminal: then it is
// told of a kind that every program knows, unless it has been told of another.
func Terminal(env []string, tty bool) []string {
	if !tty || slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		return env
	}
	return append(slices.Clip(env), "TERM=xterm")
}

// workingDir is the container's or the image's. An image must not send the
// process into the kernel's file systems: a directory such as /proc/self/fd/7
// has been a way out of containers.
func workingDir(container, image string) (string, error) {
	dir := container
	if dir == "" {
		dir = image
	}
	if dir == "" {
		return "/", nil
	}
	clean := path.Clean(dir)
	if !path.IsAbs(clean) {
		return "", fmt.Errorf("working directory %q: want an absolute path", dir)
	}
	for _, bad := range []string{"/proc", "/sys", "/dev"} {
		if clean == bad || strings.HasPrefix(clean, bad+"/") {
			return "", fmt.Errorf("working directory %q: not allowed below %s", dir, bad)
		}
	}
	return clean, nil
}

// Accounts are the files of an image that know user names.
type Accounts struct{ Passwd, Group []byte }

// userOf is who the process runs as: the container's wish, else the image's.
// Ids lie between 0 and 2³¹−1: larger ones have wrapped to root elsewhere.
func userOf(s runtime.Security, imageUser string, a Accounts) (_ specs.User, home string, err error) {
	who := imageUser
	if s.User != nil {
		who = strconv.FormatInt(*s.User, 10)
	}
	if s.Group != nil {
		name, _, _ := strings.Cut(who, ":")
		if name == "" {
			name = "0"
		}
		who = name + ":" + strconv.FormatInt(*s.Group, 10)
	}
	if who == "" {
		who = "0"
	}
	u, err := user.GetExecUser(who, nil, bytes.NewReader(a.Passwd), bytes.NewReader(a.Group))
	if err != nil {
		return specs.User{}, "", fmt.Errorf("user %q: %w", who, err)
	}
	if s.OwnGroups {
		u.Sgids = nil
	}
	const maxID = 1<<31 - 1
	out := specs.User{}
	for i, id := range append([]int{u.Uid, u.Gid}, u.Sgids...) {
		if id < 0 || id > maxID {
			return specs.User{}, "", fmt.Errorf("user %q: id %d is not between 0 and %d", who, id, maxID)
		}
		switch i {
		case 0:
			out.UID = uint32(id)
		case 1:
			out.GID = uint32(id)
		default:
			out.AdditionalGids = append(out.AdditionalGids, uint32(id))
		}
	}
	for _, g := range s.Supplemental {
		if g < 0 || g > maxID {
			return specs.User{}, "", fmt.Errorf("supplementary group %d is not between 0 and %d", g, maxID)
		}
		out.AdditionalGids = append(out.AdditionalGids, uint32(g))
	}
	slices.Sort(out.AdditionalGids)
	out.AdditionalGids = slices.Compact(out.AdditionalGids)
	if s.RunAsNonRoot && out.UID == 0 {
		return specs.User{}, "", fmt.Errorf("user %q is root and the container must not run as root: set runAsUser, or USER in the image", who)
	}
	if home = u.Home; home == "" {
		home = "/" // nobody that the image knows
	}
	return out, home, nil
}
