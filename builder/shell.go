package builder

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/podsnap/podsnap/functions/template"
	"github.com/podsnap/podsnap/internal/assets"
)

// buildShell puts the handler's folder on busybox, under the watchdog.
func buildShell(ctx context.Context, j Job, t template.Template, _ io.Writer) (v1.Image, error) {
	if _, err := os.Stat(filepath.Join(j.Handler, "handler.sh")); err != nil && j.Process == "" {
		return nil, fmt.Errorf("%s has no handler.sh: %w", j.Handler, err)
	}
	root, err := busybox(ctx)
	if err != nil {
		return nil, err
	}
	watchdog, err := assets.Watchdog()
	if err != nil {
		return nil, err
	}
	root.file("usr/bin/watchdog", 0o755, watchdog)
	app := tree{}
	if err := app.copy("function", j.Handler); err != nil {
		return nil, err
	}
	process := t.Process
	if j.Process != "" {
		process = j.Process
	}
	return assemble(v1.Config{
		Entrypoint: []string{"/usr/bin/watchdog"}, WorkingDir: "/function",
		Env: []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/home/nobody", "fprocess=" + process},
	}, runtime.GOARCH, root, app)
}

// busybox is the base of shell functions: the host's static busybox and a link
// for each of its commands.
func busybox(ctx context.Context) (tree, error) {
	missing := errors.New("building a shell function needs a static busybox: `apt-get install busybox-static`")
	bin, ok := command("busybox", "/bin", "/usr/bin")
	if !ok {
		return nil, missing
	}
	if dynamic, err := dynamic(bin); err != nil || dynamic {
		return nil, fmt.Errorf("%w (%s is not static)", missing, bin)
	}
	content, err := os.ReadFile(bin)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, bin, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the commands of %s: %w", bin, err)
	}
	t := base()
	t.file("bin/busybox", 0o755, content)
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" && filepath.Base(applet) == applet {
			t.symlink("bin/"+applet, "busybox")
		}
	}
	return t, nil
}

// dynamic reports whether a program needs a loader.
func dynamic(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return true, nil
		}
	}
	return false, nil
}
