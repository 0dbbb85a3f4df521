package engine

import (
	"context"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"
)

// warnOldRunc says when the OCI runtime is older than the fixes of 2025 and
// 2026 for ways out of containers (CVE-2025-31133, CVE-2026-41579). A
// distribution may have the fixes in an older version, so that it is a warning
// and no refusal.
func (e *Engine) warnOldRunc(ctx context.Context) {
	bin := e.c.Runc
	if bin == "" {
		bin = "runc"
	}
	out, err := exec.CommandContext(ctx, bin, "--version").Output()
	if err != nil {
		e.c.Log.Warn("the version of runc is not known", logError(err))
		return
	}
	line, _, _ := strings.Cut(string(out), "\n")
	if version, ok := strings.CutPrefix(line, "runc version "); ok && oldRunc(version) {
		e.c.Log.Warn("runc has known ways out of containers unless the distribution has fixed them: use 1.3.6, 1.4.3 or 1.5 and later",
			slog.String("version", version))
	}
}

// oldRunc says whether a version lacks the fixes. One that is not understood
// is taken for a new one.
func oldRunc(version string) bool {
	parts := strings.FieldsFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) < 3 {
		return false
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(parts[i])
	}
	switch {
	case n[0] != 1:
		return n[0] < 1
	case n[1] == 3:
		return n[2] < 6
	case n[1] == 4:
		return n[2] < 3
	}
	return n[1] < 3
}
