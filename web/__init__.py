"""A bundle as a static web site: the runtime in TypeScript, its page, and what writes the site."""
