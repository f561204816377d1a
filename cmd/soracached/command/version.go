package command

import (
	"context"
	"encoding/json"
	"runtime"
	"runtime/debug"
)

// versionCmd prints what was built, from what.
type versionCmd struct {
	JSON bool
}

func (c *versionCmd) declare(o *options) {
	o.yes(&c.JSON, "json", "Print it as JSON")
}

// Run prints the version.
func (c *versionCmd) Run(_ context.Context, con *console) error {
	version, revision := buildVersion()
	if c.JSON {
		return json.NewEncoder(con.out).Encode(map[string]string{
			"version": version, "revision": revision, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
		})
	}
	return con.table([][2]string{
		{"soracached", version}, {"revision", revision}, {"go", runtime.Version()}, {"platform", runtime.GOOS + "/" + runtime.GOARCH},
	})
}

// buildVersion returns the version of the module and the revision that it was
// built from, as far as the build recorded them.
func buildVersion() (version, revision string) {
	version = "devel"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, ""
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		version = v
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value + revision
		case s.Key == "vcs.modified" && s.Value == "true":
			revision += " with changes"
		}
	}
	return version, revision
}
